# Its modules in half precision, their blocks computed once more backwards.
_base_ = './resnet34_resnet18_dpk.py'
model = dict(links={{_base_.dpk_lean.resnet34_resnet18}})
