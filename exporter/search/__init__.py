"""The search for the smallest recipe that stays within a budget of drift."""
