"""What an operator wants and what a host holds, as comparable values; and what is wrong between them."""
