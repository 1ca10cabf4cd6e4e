"""Theory beside practice: costs, roofline, a runtime's own profile, and where the promise went."""
