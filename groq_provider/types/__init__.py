"""Values: what is asked, what comes back, the state of things. All immutable, slotted, keyword-only and picklable."""
