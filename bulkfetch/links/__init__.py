"""From an invoice ID to verified bytes: the link, and the body behind it."""
