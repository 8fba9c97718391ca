"""What `fast-vc doctor` looks at."""
