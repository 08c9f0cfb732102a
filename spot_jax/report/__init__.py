"""What runs came to: statistics, tables, pictures and a page."""
