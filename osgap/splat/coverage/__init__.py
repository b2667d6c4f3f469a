"""Whether an avatar is closed: what shows through inside the head's silhouette, as a number and a loss."""
