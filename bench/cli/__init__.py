"""The command line: a file per command. The only package that prints; heavy imports wait until a command needs them."""
