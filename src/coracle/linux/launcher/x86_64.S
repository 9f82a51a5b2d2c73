# The walker for x86_64: performs a table of system calls, one entry after the other.
#
#   as --64 -o x86_64.o x86_64.S && objcopy -O binary -j .text x86_64.o x86_64.bin
#
# gives the bytes in code.py; tests/unit/test_launcher_code.py does it and compares.  The file is
# documentation and never used at run time.  table.py lays out the entries and names the flags,
# image.py wraps code and data into an ELF file and describes the records.
#
# There is no memory of its own to write to, so that RLIMIT_DATA cannot hurt and a waiting
# container costs no page: the two scratch words lie where the kernel left argc and argv, which
# nobody reads any more.  Nothing is pushed either: the stack never grows (RLIMIT_STACK).
#
#   rbx  current entry          rsp  -> saved result, 8 bytes (a child's pid, a descriptor)
#   ebp  its flags              r13  -> scratch, 16 bytes (byte read, wait status, record)
#   r12  report descriptor      r14  error to report when every candidate failed
#
# The kernel changes rax, rcx and r11 in a system call and nothing else.

    .intel_syntax noprefix
    .set DATA, 0x10011000               # image.py: address of the data segment
    .set SIZE, 72                       # table.py: bytes in an entry
    .set RETRY, 0                       # table.py: numbers of the flag bits
    .set TOLERANT, 1
    .set EXPECT, 2
    .set JUMP, 3
    .set SAVE, 4
    .set SAVED_0, 5
    .set SCRATCH_1, 6
    .set SAVED_AT_2, 7
    .set REMEMBER, 8
    .set FAIL, 9
    .set LOOP, 10
    .set GROUP, 11
    .set WARN, 12
    .set TELL, 13
    .set RECORD, 0x00726c63             # "clr", then the kind
    .set EINTR, 4
    .set EACCES, 13
    .set SIGCHLD, 17
    .set WNOHANG, 1
    .set NR_write, 1
    .set NR_wait4, 61
    .set NR_kill, 62
    .set NR_exit_group, 231

    .text
    mov     ebx, [DATA]                 # address of the first entry
    mov     r12d, [DATA + 8]            # report descriptor, or -1
    lea     r13, [rsp + 8]
    xor     r14d, r14d
    mov     [rsp], r14

entry:
    movzx   ebp, word ptr [rbx + 2]
    movzx   eax, word ptr [rbx]
    mov     rdi, [rbx + 8]
    mov     rsi, [rbx + 16]
    mov     rdx, [rbx + 24]
    mov     r10, [rbx + 32]
    mov     r8, [rbx + 40]
    mov     r9, [rbx + 48]
    bt      ebp, SAVED_0
    cmovc   rdi, [rsp]
    bt      ebp, SCRATCH_1
    cmovc   rsi, r13
    bt      ebp, SAVED_AT_2
    cmovc   rdx, rsp
    bt      ebp, FAIL
    jc      remembered
    syscall
    cmp     rax, -4095
    jae     error

    bt      ebp, SAVE
    jnc     1f
    mov     [rsp], rax
1:  bt      ebp, LOOP
    jc      signal
    mov     ecx, RECORD + ('V' << 24)
    bt      ebp, TELL
    jc      report
    bt      ebp, EXPECT
    jnc     2f
    cmp     rax, [rbx + 56]
    jne     failure
2:  bt      ebp, JUMP                   # when the result is not 0, over as many bytes as said
    jnc     next
    test    eax, eax
    jz      next
    add     rbx, [rbx + 56]
next:
    add     rbx, SIZE
    jmp     entry

error:
    cmp     eax, -EINTR
    jne     3f
    bt      ebp, RETRY
    jc      entry
3:  bt      ebp, TOLERANT
    jc      tolerated
    xor     ecx, ecx
4:  movzx   edx, byte ptr [rbx + 64 + rcx]  # eight errnos; an unused one, 0, equals no error
    add     edx, eax
    jz      tolerated
    inc     ecx
    cmp     ecx, 8
    jb      4b
failure:
    mov     ecx, RECORD + ('F' << 24)
    jmp     report
remembered:
    mov     rax, r14
    jmp     failure

tolerated:
    bt      ebp, REMEMBER               # execvp(3): EACCES outlives what the later candidates said
    jnc     5f
    cmp     r14d, -EACCES
    cmovne  r14, rax
5:  bt      ebp, WARN
    jnc     next
    mov     ecx, RECORD + ('W' << 24)

report:                                 # ecx kind, eax result
    mov     [r13], ecx
    mov     [r13 + 8], eax
    mov     eax, [rbx + 4]              # step
    mov     [r13 + 4], eax
    movzx   eax, word ptr [rbx]
    mov     [r13 + 12], eax
    mov     edi, r12d
    mov     rsi, r13
    mov     edx, 16
    mov     eax, NR_write
    syscall
    cmp     byte ptr [r13 + 3], 'F'
    jne     next
    mov     edi, 255
exit:
    mov     eax, NR_exit_group
    syscall
    ud2                                 # a seccomp filter forbade even that

signal:                                 # eax: one came; what follows never leaves this entry
    cmp     eax, SIGCHLD
    je      reap
    mov     edi, [rsp]
    test    edi, edi
    jz      exit                        # no child: the pause process, asked to end
    bt      ebp, GROUP
    jnc     6f
    neg     edi
6:  mov     esi, eax
    mov     eax, NR_kill
    syscall
    jmp     entry
reap:
    mov     edi, -1
    mov     rsi, r13
    mov     edx, WNOHANG
    xor     r10d, r10d
    mov     eax, NR_wait4
    syscall
    test    eax, eax
    jle     entry
    cmp     eax, [rsp]
    jne     reap
    mov     eax, [r13]                  # the child's: pass its end on as a shell would
    mov     edi, eax
    and     edi, 0x7f
    lea     edi, [rdi + 128]
    jnz     exit
    movzx   edi, ah
    jmp     exit
