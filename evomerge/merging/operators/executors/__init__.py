"""Who carries a form out: single steps, a loop of the CPU, a pass of an accelerator."""
