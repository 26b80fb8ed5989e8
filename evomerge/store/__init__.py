"""The only truth: studies, generations, trials and outcomes in one SQL database.

Domain values know no SQL; encoders stand between. One writer per study (the holder of
its lease); every answer is fenced by the coordinator's epoch and the trial's attempt.
"""
