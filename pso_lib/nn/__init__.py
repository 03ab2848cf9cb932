"""What readers meet first: activations, layers, their starting weights, networks.

activations   piecewise-affine ones know their kinks and slopes exactly
layers        F(x) = alpha x + beta B^T sigma(A x + b): folds, residual and feed-forward layers
init          starting weights: He, orthogonal, looks-linear, shared, block, projection
networks      a lift, L layers, a readout
convnet       a small residual network on images (ConvNet)
transformer   a small Transformer that predicts the next token (GPT)
weights       which parameters of a model are matrices with a spectrum worth looking at
"""
