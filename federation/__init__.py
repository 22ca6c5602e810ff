"""Reading and merging every source behind one API."""
