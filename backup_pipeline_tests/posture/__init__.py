"""Tests of posture: what is judged, how it is asked for, and what is told."""
