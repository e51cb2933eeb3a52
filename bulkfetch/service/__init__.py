"""A run under supervision: how it tells a supervisor that it is well."""
