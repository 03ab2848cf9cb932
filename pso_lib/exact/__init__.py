"""Sympy, exact to the last digit: mirrors, hinges, regions, folds and origami."""
