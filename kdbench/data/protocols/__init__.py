"""One way to split a data set for each file; they find themselves."""
