"""Control groups, version 1, 2 and both at once (cgroups(7)).

hierarchy   where the hierarchies are mounted and where we stand in them
group       one group across all of them: create, join, freeze, kill, delete
settings    OCI ``linux.resources`` as a list of file writes; one module per controller beside it
devices     device rules: writes on v1, an eBPF program (device_program) on v2
statistics  what a group used, in the shape of ``runc events --stats``
oom         a descriptor that wakes when the kernel kills for memory
delegation  what a user without root may do, and giving a group to somebody
systemd     the same group as a transient scope of systemd; systemd_bus talks to it
"""
