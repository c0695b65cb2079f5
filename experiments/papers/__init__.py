"""What stands in the five papers, one file for each: every numbered table and figure, and the claims of their texts."""
