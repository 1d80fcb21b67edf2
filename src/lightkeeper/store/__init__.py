"""The only SQL. One function per statement, its name says which rows; files are chapters as in `domain` and `steps`."""
