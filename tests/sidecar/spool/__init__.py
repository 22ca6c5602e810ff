"""The spool: format, writer, reader, faults and damage."""
