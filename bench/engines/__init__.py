"""Where units are executed. One engine so far: in this process."""
