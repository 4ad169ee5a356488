"""What agents remember: for one run on a blackboard, for good in a store of passages."""
