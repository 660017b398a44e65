"""What is counted on live traffic, and the Result that comes of it."""
