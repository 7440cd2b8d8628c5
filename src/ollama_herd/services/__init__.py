"""The two programs as services of the operating system: started at login or boot, kept running."""
