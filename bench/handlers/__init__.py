"""The handlers to compare with: honest versions of what a floor, a sum of tutorials and a first try look like."""
