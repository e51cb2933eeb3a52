"""How bulkfetch speaks HTTP, politely and safely: sessions, a gate for each origin, addresses that may be reached."""
