"""How good detections are, against ground truth or against each other."""
