"""What people do to jobs: cancel, retry, edit and delete them, and wait for them."""
