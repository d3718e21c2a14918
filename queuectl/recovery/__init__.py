"""Recovery: settles what dead owners held, and removes what they left."""
