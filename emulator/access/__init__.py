"""Who gets in: certificates, their rotation, and listeners that refuse."""
