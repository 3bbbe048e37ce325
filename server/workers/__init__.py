"""Workers: the processes that run jobs, kept alive, and what they and the server say to each other."""
