# MD5 and SHA-512 of the same bytes, in one pass over them (x86-64 with AVX-512 F and VL, and BMI1).
#
# Each step of MD5 waits for the one before, and each round of SHA-512 too, so that either alone leaves
# most of a core idle. Here they share it without a wait for each other: MD5 runs in general registers,
# where a rotation takes one cycle (in vectors, on Zen 4, two), SHA-512 in vectors, of whose lanes it
# uses the lowest; a rotation of theirs and a function of three operands are one instruction each, which
# leaves room for the message schedule, of four blocks at once. The processor overlaps them by itself
# where their instructions lie close together: a `unit` has 8 steps of MD5, 5 rounds of SHA-512 and a
# word of the schedule for the four blocks that come next; 16 units are a block of SHA-512, which is two
# of MD5.
#
#   void imaged_md5_sha512_avx512(u32 md5[4], u64 sha512[8], const u8 *bytes, size_t groups,
#                                 const Tables *tables)
#
# takes `groups` of 512 bytes, at least one; `bytes` need no alignment. System V's calling convention.
#
# Registers in the loop:
#   eax ebx ecx edx  the state of MD5, whose roles move on by one register a step
#   r12d-r15d        the same before its block
#   r8 r9            for the moment
#   rdi              this block's column of the rows of the schedule
#   rbp rsi          where the next words of the schedule go, and the constants that they take
#   xmm0-xmm7        the state of SHA-512, whose roles move on by one register a round
#   xmm8-xmm13       for the moment, in a round and in the schedule; zmm14 zmm15 where a block begins
#   ymm16-ymm31      16 words of the schedule, each of four blocks

# Offsets in `Tables` (both.rs).
    .set SINES, 0
    .set ORDER, 256
    .set ROOTS, 448
    .set SWAP, 1088

# The frame, from rsp on.
    .set SUMS, 0                # message and constant of each of the 64 steps
    .set ROWS, 256              # the schedule, constants added: 80 rows of a word of four blocks, twice
    .set HALF, 80 * 32
    .set MD5, ROWS + 2 * HALF   # the arguments
    .set SHA512, MD5 + 8
    .set BYTES, MD5 + 16        # of the block under way
    .set GROUPS, MD5 + 24       # that are left
    .set TABLES, MD5 + 32
    .set READ, MD5 + 40         # the half of the rows that is read, and the one that is written
    .set WRITE, MD5 + 48
    .set CALLER, MD5 + 56       # rsp before the frame
    .set FRAME, MD5 + 64

# MD5's four rounds.
    .set F, 0
    .set G, 1
    .set H, 2
    .set I, 3

# A step of MD5: a = b + ((a + f(b, c, d) + sum) <<< turn). What b goes into comes as late as it can, for
# b is what the step before computes. The two parts of G have no bit in common, so that each is added by
# itself. I is -1 minus what is subtracted here; the -1 is in `SINES`.
.macro step n f turn a b c d
    add \a, dword ptr [rsp + SUMS + 4 * (\n)]
  .if \f == F
    mov r8d, \c
    xor r8d, \d
    and r8d, \b
    xor r8d, \d
    add \a, r8d
  .elseif \f == G
    andn r8d, \d, \c
    add \a, r8d
    mov r9d, \d
    and r9d, \b
    add \a, r9d
  .elseif \f == H
    mov r8d, \c
    xor r8d, \d
    xor r8d, \b
    add \a, r8d
  .else
    andn r8d, \b, \d
    xor r8d, \c
    sub \a, r8d
  .endif
    rol \a, \turn
    add \a, \b
.endm

# The same, with the registers and the turn of step n of a round of MD5.
.macro step_of n f t0 t1 t2 t3
  .if (\n & 3) == 0
    step \n, \f, \t0, eax, ebx, ecx, edx
  .elseif (\n & 3) == 1
    step \n, \f, \t1, edx, eax, ebx, ecx
  .elseif (\n & 3) == 2
    step \n, \f, \t2, ecx, edx, eax, ebx
  .else
    step \n, \f, \t3, ebx, ecx, edx, eax
  .endif
.endm
.macro md5 n f
  .if \f == F
    step_of \n, F, 7, 12, 17, 22
  .elseif \f == G
    step_of \n, G, 5, 9, 14, 20
  .elseif \f == H
    step_of \n, H, 4, 11, 16, 23
  .else
    step_of \n, I, 6, 10, 15, 21
  .endif
.endm

# Before a block of MD5, the one `at` bytes into the block under way.
.macro md5_begin at
    mov r8, [rsp + BYTES]
    mov r9, [rsp + TABLES]
    vmovdqu32 zmm15, [r8 + \at]
    vpaddd zmm14, zmm15, [r9 + SINES]
    vmovdqa32 [rsp + SUMS], zmm14
  .irp round, 1, 2, 3
    vmovdqa32 zmm14, [r9 + ORDER + 64 * (\round - 1)]
    vpermd zmm14, zmm14, zmm15
    vpaddd zmm14, zmm14, [r9 + SINES + 64 * \round]
    vmovdqa32 [rsp + SUMS + 64 * \round], zmm14
  .endr
    mov r12d, eax
    mov r13d, ebx
    mov r14d, ecx
    mov r15d, edx
.endm

# After it.
.macro md5_end
    add eax, r12d
    add ebx, r13d
    add ecx, r14d
    add edx, r15d
.endm

# A round of SHA-512; the tables of `vpternlogq` are those of a choice, of a sum and of a majority.
.macro round n a b c d e f g h
    vpaddq \h, \h, qword ptr [rdi + 32 * (\n)]{1to2}
    vprorq xmm8, \e, 14
    vprorq xmm9, \e, 18
    vprorq xmm10, \e, 41
    vmovdqa xmm11, \e
    vpternlogq xmm11, \f, \g, 0xca
    vpternlogq xmm8, xmm9, xmm10, 0x96
    vpaddq \h, \h, xmm11
    vprorq xmm12, \a, 28
    vprorq xmm13, \a, 34
    vprorq xmm9, \a, 39
    vpaddq \h, \h, xmm8
    vmovdqa xmm11, \a
    vpternlogq xmm11, \b, \c, 0xe8
    vpternlogq xmm12, xmm13, xmm9, 0x96
    vpaddq \d, \d, \h
    vpaddq \h, \h, xmm11
    vpaddq \h, \h, xmm12
.endm

# A word of the schedule of the next four blocks: that of 16 words before, of 15, of 7 and of 2.
.macro word n w w1 w9 w14
    vprorq ymm9, \w1, 1
    vprorq ymm10, \w1, 8
    vpsrlq ymm11, \w1, 7
    vpternlogq ymm9, ymm10, ymm11, 0x96
    vpaddq \w, \w, \w9
    vprorq ymm12, \w14, 19
    vprorq ymm13, \w14, 61
    vpsrlq ymm14, \w14, 6
    vpternlogq ymm12, ymm13, ymm14, 0x96
    vpaddq \w, \w, ymm9
    vpaddq \w, \w, ymm12
    vpaddq ymm9, \w, qword ptr [rsi + 8 * \n]{1to4}
    vmovdqa [rbp + 32 * \n], ymm9
.endm

# 8 steps of MD5 among 5 rounds of SHA-512.
.macro unit n f1 a b c d e f g h
    round 5 * \n + 0, \a, \b, \c, \d, \e, \f, \g, \h
    md5 (8 * \n + 0) & 63, \f1
    md5 (8 * \n + 1) & 63, \f1
    round 5 * \n + 1, \h, \a, \b, \c, \d, \e, \f, \g
    md5 (8 * \n + 2) & 63, \f1
    round 5 * \n + 2, \g, \h, \a, \b, \c, \d, \e, \f
    md5 (8 * \n + 3) & 63, \f1
    md5 (8 * \n + 4) & 63, \f1
    round 5 * \n + 3, \f, \g, \h, \a, \b, \c, \d, \e
    md5 (8 * \n + 5) & 63, \f1
    round 5 * \n + 4, \e, \f, \g, \h, \a, \b, \c, \d
    md5 (8 * \n + 6) & 63, \f1
    md5 (8 * \n + 7) & 63, \f1
.endm

# Four words of each of four blocks, the ones `at` bytes into each: rows and columns exchanged.
.macro load4 at w0 w1 w2 w3
    vmovdqu ymm9, [r8 + \at]
    vmovdqu ymm10, [r8 + \at + 128]
    vmovdqu ymm11, [r8 + \at + 256]
    vmovdqu ymm12, [r8 + \at + 384]
    vpshufb ymm9, ymm9, ymm8
    vpshufb ymm10, ymm10, ymm8
    vpshufb ymm11, ymm11, ymm8
    vpshufb ymm12, ymm12, ymm8
    vpunpcklqdq ymm13, ymm9, ymm10
    vpunpckhqdq ymm14, ymm9, ymm10
    vpunpcklqdq ymm15, ymm11, ymm12
    vpunpckhqdq ymm9, ymm11, ymm12
    vshufi64x2 \w0, ymm13, ymm15, 0
    vshufi64x2 \w1, ymm14, ymm9, 0
    vshufi64x2 \w2, ymm13, ymm15, 3
    vshufi64x2 \w3, ymm14, ymm9, 3
    vpaddq ymm9, \w0, qword ptr [r9 + ROOTS + \at]{1to4}
    vpaddq ymm10, \w1, qword ptr [r9 + ROOTS + \at + 8]{1to4}
    vpaddq ymm11, \w2, qword ptr [r9 + ROOTS + \at + 16]{1to4}
    vpaddq ymm12, \w3, qword ptr [r9 + ROOTS + \at + 24]{1to4}
    vmovdqa [rbp + 4 * \at], ymm9
    vmovdqa [rbp + 4 * \at + 32], ymm10
    vmovdqa [rbp + 4 * \at + 64], ymm11
    vmovdqa [rbp + 4 * \at + 96], ymm12
.endm

# The first 16 words of the schedule of the group at r8, into the rows at rbp.
.macro load
    mov r9, [rsp + TABLES]
    vbroadcasti128 ymm8, [r9 + SWAP]
    load4 0, ymm16, ymm17, ymm18, ymm19
    load4 32, ymm20, ymm21, ymm22, ymm23
    load4 64, ymm24, ymm25, ymm26, ymm27
    load4 96, ymm28, ymm29, ymm30, ymm31
    lea rsi, [r9 + ROOTS + 128]
    add rbp, 16 * 32
.endm

# After 16 words of it.
.macro next_words
    add rsi, 16 * 8
    add rbp, 16 * 32
.endm

.macro sha512_end at r
    vpaddq \r, \r, qword ptr [r8 + \at]{1to2}
    vmovq [r8 + \at], \r
.endm

    .text
    .p2align 6
    .globl imaged_md5_sha512_avx512
    .hidden imaged_md5_sha512_avx512
    .type imaged_md5_sha512_avx512, @function
imaged_md5_sha512_avx512:
    .cfi_startproc
    mov rax, rsp
    .cfi_def_cfa_register rax
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .cfi_offset rbx, -16
    .cfi_offset rbp, -24
    .cfi_offset r12, -32
    .cfi_offset r13, -40
    .cfi_offset r14, -48
    .cfi_offset r15, -56
    sub rsp, FRAME
    and rsp, -64
    mov [rsp + CALLER], rax
    # The caller's frame is found by what lies at rsp + CALLER, 5432, plus the return address.
    .cfi_escape 0x0f, 0x06, 0x77, 0xb8, 0x2a, 0x06, 0x23, 0x08
    mov [rsp + MD5], rdi
    mov [rsp + SHA512], rsi
    mov [rsp + BYTES], rdx
    mov [rsp + GROUPS], rcx
    mov [rsp + TABLES], r8

    # The whole schedule of the first group.
    mov r8, rdx
    lea rbp, [rsp + ROWS]
    load
    mov r8d, 4
2:
    word  0, ymm16, ymm17, ymm25, ymm30
    word  1, ymm17, ymm18, ymm26, ymm31
    word  2, ymm18, ymm19, ymm27, ymm16
    word  3, ymm19, ymm20, ymm28, ymm17
    word  4, ymm20, ymm21, ymm29, ymm18
    word  5, ymm21, ymm22, ymm30, ymm19
    word  6, ymm22, ymm23, ymm31, ymm20
    word  7, ymm23, ymm24, ymm16, ymm21
    word  8, ymm24, ymm25, ymm17, ymm22
    word  9, ymm25, ymm26, ymm18, ymm23
    word 10, ymm26, ymm27, ymm19, ymm24
    word 11, ymm27, ymm28, ymm20, ymm25
    word 12, ymm28, ymm29, ymm21, ymm26
    word 13, ymm29, ymm30, ymm22, ymm27
    word 14, ymm30, ymm31, ymm23, ymm28
    word 15, ymm31, ymm16, ymm24, ymm29
    next_words
    dec r8d
    jnz 2b

    mov r8, [rsp + SHA512]
    vpbroadcastq xmm0, [r8 + 0]
    vpbroadcastq xmm1, [r8 + 8]
    vpbroadcastq xmm2, [r8 + 16]
    vpbroadcastq xmm3, [r8 + 24]
    vpbroadcastq xmm4, [r8 + 32]
    vpbroadcastq xmm5, [r8 + 40]
    vpbroadcastq xmm6, [r8 + 48]
    vpbroadcastq xmm7, [r8 + 56]
    mov r8, [rsp + MD5]
    mov eax, [r8]
    mov ebx, [r8 + 4]
    mov ecx, [r8 + 8]
    mov edx, [r8 + 12]
    lea rdi, [rsp + ROWS]
    lea rbp, [rsp + ROWS + HALF]
    mov [rsp + READ], rdi
    mov [rsp + WRITE], rbp

3:  # A group. The next one's schedule begins; after the last, this one's once more, for nothing.
    mov r8, [rsp + BYTES]
    lea r9, [r8 + 512]
    cmp qword ptr [rsp + GROUPS], 1
    cmova r8, r9
    load

    .p2align 5
4:  # A block of SHA-512.
    md5_begin 0
    unit  0, F, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7
    word  0, ymm16, ymm17, ymm25, ymm30
    unit  1, F, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2
    word  1, ymm17, ymm18, ymm26, ymm31
    unit  2, G, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5
    word  2, ymm18, ymm19, ymm27, ymm16
    unit  3, G, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0
    word  3, ymm19, ymm20, ymm28, ymm17
    unit  4, H, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3
    word  4, ymm20, ymm21, ymm29, ymm18
    unit  5, H, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6
    word  5, ymm21, ymm22, ymm30, ymm19
    unit  6, I, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1
    word  6, ymm22, ymm23, ymm31, ymm20
    unit  7, I, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4
    word  7, ymm23, ymm24, ymm16, ymm21
    md5_end
    md5_begin 64
    unit  8, F, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7
    word  8, ymm24, ymm25, ymm17, ymm22
    unit  9, F, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2
    word  9, ymm25, ymm26, ymm18, ymm23
    unit 10, G, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5
    word 10, ymm26, ymm27, ymm19, ymm24
    unit 11, G, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0
    word 11, ymm27, ymm28, ymm20, ymm25
    unit 12, H, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3
    word 12, ymm28, ymm29, ymm21, ymm26
    unit 13, H, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6
    word 13, ymm29, ymm30, ymm22, ymm27
    unit 14, I, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm0, xmm1
    word 14, ymm30, ymm31, ymm23, ymm28
    unit 15, I, xmm5, xmm6, xmm7, xmm0, xmm1, xmm2, xmm3, xmm4
    word 15, ymm31, ymm16, ymm24, ymm29
    next_words
    md5_end
    mov r8, [rsp + SHA512]
    sha512_end 0, xmm0
    sha512_end 8, xmm1
    sha512_end 16, xmm2
    sha512_end 24, xmm3
    sha512_end 32, xmm4
    sha512_end 40, xmm5
    sha512_end 48, xmm6
    sha512_end 56, xmm7
    add qword ptr [rsp + BYTES], 128
    add rdi, 8
    mov r8, [rsp + TABLES]
    add r8, ROOTS + 5 * 128
    cmp rsi, r8
    jne 4b

    mov rdi, [rsp + WRITE]
    mov rbp, [rsp + READ]
    mov [rsp + READ], rdi
    mov [rsp + WRITE], rbp
    dec qword ptr [rsp + GROUPS]
    jnz 3b

    mov r8, [rsp + MD5]
    mov [r8], eax
    mov [r8 + 4], ebx
    mov [r8 + 8], ecx
    mov [r8 + 12], edx
    vzeroupper
    mov rax, [rsp + CALLER]
    .cfi_def_cfa rax, 8
    mov r15, [rax - 48]
    mov r14, [rax - 40]
    mov r13, [rax - 32]
    mov r12, [rax - 24]
    mov rbp, [rax - 16]
    mov rbx, [rax - 8]
    mov rsp, rax
    .cfi_def_cfa_register rsp
    ret
    .cfi_endproc
    .size imaged_md5_sha512_avx512, . - imaged_md5_sha512_avx512
