"""Plan × observed × outcome → the status and the Events, by kstatus' rules.  Pure."""
