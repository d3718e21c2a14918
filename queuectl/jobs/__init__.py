"""What people do to jobs, and how they wait for them."""
