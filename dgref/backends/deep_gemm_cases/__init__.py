"""How cases of the op table become calls of DeepGEMM: one module for each family."""
