"""What a synthetic person looks like."""
