"""HTML of the parts of the page; all text of users, models and files is escaped."""
