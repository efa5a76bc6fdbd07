"""What is done to a whole video's detections, ours or anybody's: linking, rescoring, suppression."""
