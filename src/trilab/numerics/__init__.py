"""What 16-bit arithmetic does in training: each claim of Micikevicius et al. 2018 as a function that returns numbers.

Mixed Precision Training, https://arxiv.org/abs/1710.03740.
"""
