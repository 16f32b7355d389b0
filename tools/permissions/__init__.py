"""What each role may do, and which code needs it: read from the source, compared with the templates, written down in
docs/permissions.md. ``python -m tools.permissions`` renews that page.

``source_calls`` finds the AWS calls of some modules, ``operations`` says which IAM actions they take, ``reference`` is
AWS's own account of actions, resources and conditions, ``policies`` reads the roles out of templates, ``example`` has a
role of each kind, ``catalogue`` says whose code is whose, ``evaluation`` asks whether a role may do something, ``page``
writes the page.
"""
