"""Sympy, exact to the last digit: mirrors, hinges, regions, folds and origami.

symbolic      reflections, orthogonality, rigidity
hinges        layers that are affine in pieces, as sums of hinges
regions       the regions of a plane network, each with its affine map
arrangement   the cells that hyperplanes cut out of space, in any dimension
folds         one hidden layer, and when it folds paper
origami       pencils of creases, Kawasaki's condition, the normal form of folds
orthogonal_decomposition   which creases one hidden layer can fold, in any dimension
"""
