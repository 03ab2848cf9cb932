"""Assignments: make them, grade what comes back, compare, hand over. ``pso-lib course`` is the command line.

assignment   what an assignment is, and each student's variant
judges       what oracles judge with
notebook     the student's notebook, and the solutions'
submission   what a student handed in: the answers, by function name
sandbox      a process without network, files and time to waste; worker and wire are its inside
grading      every case of every submission, resumed where it was; judging is its verdict on one
gradebook    the roster, the table of grades, lateness
similar      pairs that resemble each other
export       the same assignment for other graders
"""

from pso_lib.course.assignment import Assignment, Case, CourseError, Exercise, Judgement

__all__ = ["Assignment", "Case", "CourseError", "Exercise", "Judgement"]
