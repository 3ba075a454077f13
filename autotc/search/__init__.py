"""The search: what is asked, the space of policies, samplers, and the loop that runs a study."""
