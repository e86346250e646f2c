# Part of sokd_fpn.py, under its own name.
_base_ = './sokd_fpn.py'
