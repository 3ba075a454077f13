"""What a policy does on a device: measured on a GPU, predicted from a table of that GPU, served in a simulation."""
