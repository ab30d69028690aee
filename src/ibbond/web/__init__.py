"""A running lab as a page in a browser: what it is told, who may ask, and the page itself."""
