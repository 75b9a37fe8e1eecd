"""What ``ben-secure demo`` shows: an honest database, one with attacks in it, and both ways to sign one."""
