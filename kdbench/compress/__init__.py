"""What a trained network becomes before it leaves: a folder that works without kdbench's records and data sets."""
