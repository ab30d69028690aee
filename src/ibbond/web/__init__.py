"""A running lab as a page in a browser: the page, the service, access control."""
