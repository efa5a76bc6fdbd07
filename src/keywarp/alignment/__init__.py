"""What relates a frame to a reference: correspondences, and the aligners that estimate them."""
