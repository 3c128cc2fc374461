/**
 * Command lines, one a line, run by both programs in folders with the same images (see fixture.ts).
 * Words are split as a shell does, with single and double quotes.
 */
export const cases: Readonly<Record<string, string>> = {
  'the program': String.raw`
nonsense
-x
-xV
-q info r.raw
--foo
--version=3
-T
--trace
--
-
''
-- info r.raw
create
info
map
convert
compare
check
resize
measure
dd
bench
`,
  'unknown and incomplete options': String.raw`
info -Z r.raw
info r.raw -Z
info -UZf r.raw
info -Uf
info -f
info --f raw r.raw
info --fo raw r.raw
info --force r.raw
info --out=json r.raw
info --output
info r.raw --output
info --backing-chain=1 r.raw
info --o json r.raw
info -: r.raw
create -F
create --image-opts x 1M
map --s 5 r.raw
map --ma=5 r.raw
check --rep
check -r
convert --target r.raw x
convert --s r.raw x
convert -m
compare -F
resize -f
resize --pre r.raw 1M
resize --shri
dd -f
dd --ob
bench --object secret,id=a,data=b r.raw
bench --flush r.raw
bench --no-drain=1 r.raw
`,
  create: String.raw`
create new 1M
create -f raw new 1M
create -f raw new 1
create -f raw new 513
create -q -f raw new 1M
create -f raw new
create -f raw new 0
create -f raw new 1M extra
create -f raw new 1M extra more
create -f raw '' 1M
create -f raw new nonsense
create -f raw new -1
create -f raw new 1.5
create -f raw new 1.5k
create -f raw new 16E
create -f raw new 8E
create -f raw new 0x10k
create -f raw new '1 k'
create -f nope new 1M
create -f bochs new 1M
create -f null-co new 1M
create -f raw nosuch:new 1M
create -f raw folder 1M
create -f raw missing/new 1M
create -f raw file:new 1M
create -f qcow2 new 1M
create -f qcow2 new 64T
create -f qcow2 new
create -f qcow2 new 0
create -f qcow2 -o cluster_size=4k new 1M
create -f qcow2 -o cluster_size=4k,cluster_size=8k new 1M
create -f qcow2 -o cluster_size=4k -o lazy_refcounts=on new 1M
create -f qcow2 -o lazy_refcounts new 1M
create -f qcow2 -o nolazy_refcounts new 1M
create -f qcow2 -o cluster_size=3 new 1M
create -f qcow2 -o cluster_size=0 new 1M
create -f qcow2 -o cluster_size=4M new 1M
create -f qcow2 -o cluster_size=16E new 1M
create -f qcow2 -o cluster_size=99999999999999999999k new 1M
create -f qcow2 -o cluster_size=0x10k new 1M
create -f qcow2 -o refcount_bits=-5 new 1M
create -f qcow2 -o refcount_bits=0 new 1M
create -f qcow2 -o refcount_bits=3 new 1M
create -f qcow2 -o refcount_bits=010 new 1M
create -f qcow2 -o refcount_bits=128 new 1M
create -f qcow2 -o refcount_bits=1x new 1M
create -f qcow2 -o refcount_bits=18446744073709551616 new 1M
create -f qcow2 -o refcount_bits=8,compat=0.10 new 1M
create -f qcow2 -o compat=0.10 new 1M
create -f qcow2 -o compat=1.1 new 1M
create -f qcow2 -o compat=v2 new 1M
create -f qcow2 -o compat=v3 new 1M
create -f qcow2 -o compat=foo new 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on new 1M
create -f qcow2 -o compression_type=zstd new 1M
create -f qcow2 -o compression_type=foo new 1M
create -f qcow2 -o compression_type=zstd,compat=0.10 new 1M
create -f qcow2 -o preallocation=metadata new 1M
create -f qcow2 -o preallocation=falloc new 1M
create -f qcow2 -o preallocation=full new 1M
create -f qcow2 -o preallocation=foo new 1M
create -f qcow2 -o preallocation=off new 1M
create -f qcow2 -o preallocation=metadata,compat=0.10 new 1M
create -f qcow2 -o extended_l2=on,cluster_size=4k new 1M
create -f qcow2 -o lazy_refcounts=maybe new 1M
create -f qcow2 -o bogus=1 new 1M
create -f qcow2 -o bogus new 1M
create -f qcow2 -o nobogus new 1M
create -f qcow2 -o = new 1M
create -f qcow2 -o '' new 1M
create -f qcow2 -o , new 1M
create -f qcow2 -o size=1M, new
create -f qcow2 -o size=1M new
create -f qcow2 -o size=1M new 2M
create -f qcow2 -o size=1M,size=2M new
create -f qcow2 -o size=x,size=2M new
create -f qcow2 -o id=5,size=1M new
create -f raw -o id=5,size=1M new
create -f raw -o preallocation=off new 1M
create -f raw -o preallocation=metadata new 1M
create -f raw -o preallocation=full new 1M
create -f raw -o preallocation=falloc new 1M
create -f raw -o nocow=on new 1M
create -f raw -o nocow new 1M
create -f raw -o cluster_size=4k new 1M
create -f raw -o help
create -f raw -o help new
create -f raw -o '?' new
create -f raw -o size=1M,help new 5M more arguments
create -f qcow2 -o help
create -f qcow2 -o help new
create -f nope -o help new
create -f null-co -o help new
create -f raw -o help nosuch:new
create -f file -o help new
create -f qcow2 r.raw 2M
create -f qcow2 -b r.raw -F raw new
create -f qcow2 -b r.raw -F raw new 2M
create -f qcow2 -b r.raw -F raw new 512k
create -f qcow2 -b r.raw new
create -f qcow2 -b q.qcow2 new
create -f qcow2 -b q.qcow2 new 2M
create -f qcow2 -b q.qcow2 -F qcow2 new
create -f qcow2 -b q.qcow2 -F raw new
create -f qcow2 -b r.raw -F qcow2 new
create -f qcow2 -b r.raw -F nope new
create -f qcow2 -b gone.raw -F raw new
create -f qcow2 -b gone.raw -F raw new 1M
create -f qcow2 -b gone.raw new 1M
create -u -f qcow2 -b gone.raw -F raw new 1M
create -u -f qcow2 -b gone.raw -F raw new
create -u -f qcow2 -b gone.raw new 1M
create -f qcow2 -b '' new
create -f qcow2 -b '' -F raw new 1M
create -f qcow2 -b new -F raw new 1M
create -f qcow2 -b folder -F raw new
create -f qcow2 -b nosuch:x -F raw new
create -f qcow2 -F raw new 1M
create -f raw -b r.raw -F raw new
create -f raw -F raw new 1M
create -f qcow2 -o backing_file=r.raw,backing_fmt=raw new
create -f qcow2 -o backing_file=r.raw new
create -f qcow2 -o backing_file=r.raw -F raw new
create -f qcow2 -b r.raw -F raw -o preallocation=metadata new
create -f qcow2 'new,with,commas' 1M
create -f qcow2 -b 'r.raw' -F raw -o backing_file=q.qcow2 new
create --object secret,id=a,data=b -f raw new 1M
create --object nosuch,id=a -f raw new 1M
`,
  info: String.raw`
info r.raw
info q.qcow2
info old.qcow2
info top.qcow2
info chain.qcow2
info orphan.qcow2
info packed.qcow2
info snap.qcow2
info leak.qcow2
info dirty.qcow2
info odd.raw
info empty
info text
info folder
info missing
info ''
info missing/x
info r.raw q.qcow2
info -f raw q.qcow2
info -f qcow2 q.qcow2
info -f qcow2 r.raw
info -f nope r.raw
info -f qcow2 empty
info -f raw -f qcow2 r.raw
info -fraw r.raw
info -f=raw r.raw
info --format raw r.raw
info --output=human q.qcow2
info --output=json r.raw
info --output=json q.qcow2
info --output=json old.qcow2
info --output=json top.qcow2
info --output=json snap.qcow2
info --output=json dirty.qcow2
info --output=json odd.raw
info --output=json missing
info --output=xml r.raw
info --output= r.raw
info --output=json --output=human r.raw
info --backing-chain r.raw
info --backing-chain chain.qcow2
info --backing-chain --output=json chain.qcow2
info --backing-chain --output=json r.raw
info --backing-chain orphan.qcow2
info --backing-chain --output=json orphan.qcow2
info --backing-chain loop.qcow2
info -U q.qcow2
info --force-share q.qcow2
info -U -f raw r.raw
info file:r.raw
info nosuch:r.raw
info ./r.raw
info -- -f
info --image-opts r.raw
info --image-opts ''
info --image-opts driver=raw,file.filename=r.raw
info --image-opts driver=qcow2,file.filename=q.qcow2
info --image-opts file.filename=q.qcow2
info --image-opts driver=raw,file.filename=r.raw,size=512
info --image-opts driver=raw,file.filename=r.raw,offset=512,size=512
info --image-opts driver=raw,file.filename=r.raw,size=5x
info --image-opts driver=raw,file.filename=r.raw,bogus=1
info --image-opts driver=raw,file.filename=r.raw,bogus
info --image-opts driver=raw,file.filename=r.raw,nobogus
info --image-opts driver=raw,file.filename=r.raw,id=1
info --image-opts driver=raw,file.filename=r.raw,id=x
info --image-opts driver=raw,file.filename=r.raw,read-only=on
info --image-opts driver=raw,file.filename=r.raw,read-only
info --image-opts driver=raw,file.filename=r.raw,read-only=maybe
info --image-opts driver=raw,help
info --image-opts help
info --image-opts driver=nope
info --image-opts driver=raw
info --image-opts driver=raw,file.driver=nope
info --image-opts driver=raw,file.filename=missing
info --image-opts driver=raw,file.filename=r.raw,zzz=1,aaa=2,mmm=3
info --image-opts driver=raw,file.filename=r.raw,file.zzz=1,file.aaa=2
info --image-opts driver=qcow2,file.filename=q.qcow2,lazy-refcounts=maybe
info --image-opts driver=null-co,size=1M
info --image-opts driver=null-co,size=1M,read-zeroes=on
info --image-opts driver=raw,file.driver=null-co,file.size=2M
info --image-opts driver=raw,driver=qcow2,file.filename=r.raw
info --image-opts 'driver=raw,file.filename=a,,b'
info -f raw --image-opts driver=raw,file.filename=r.raw
info -U --image-opts driver=raw,file.filename=r.raw
info -U --image-opts driver=raw,file.filename=r.raw,force-share=off
info -U --image-opts driver=raw,file.filename=r.raw,force-share=on
info 'json:{"driver":"raw","file":{"driver":"file","filename":"r.raw"}}'
info 'json:{"driver":"raw","file.filename":"r.raw"}'
info 'json:{"driver":"raw","size":512,"file":{"driver":"file","filename":"r.raw"}}'
info --output=json 'json:{"driver":"raw","size":512,"offset":1024,"file":{"driver":"file","filename":"r.raw"}}'
info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"q.qcow2"}}'
info 'json:{'
info 'json:{}'
info 'json:[]'
info 'json:'
info 'json:{"driver":"raw"}'
info 'json:{"driver":1}'
info 'json:{"driver":"raw","file":"r.raw"}'
info 'json:{"driver":"raw","file":{"driver":"file","filename":1}}'
info 'json:{"driver":"null-co","size":"1G","read-zeroes":true}'
info null-co://
info --object secret,id=a,data=b r.raw
info --object secret,id=a r.raw
info --object secret,id=a,file=missing r.raw
info --object secret,id=a,file=folder r.raw
info --object secret,id=a,file=text r.raw
info --object secret,id=a,data=b,file=text r.raw
info --object 'secret,id=a,data=!!,format=base64' r.raw
info --object secret,id=a,data=Zm9v,format=base64 r.raw
info --object secret,id=a,data=b,keyid=k r.raw
info --object secret,id=a,data=b --object secret,id=a,data=c r.raw
info --object secret,id=a,data=b --object secret,id=b,data=c,keyid=a r.raw
info --object secret,id=a,data=b,keyid=a r.raw
info --object secret,help r.raw
info --object '' r.raw
info --object nosuch,id=a r.raw
info --object iothread,id=a r.raw
`,
  map: String.raw`
map r.raw
map q.qcow2
map top.qcow2
map chain.qcow2
map old.qcow2
map packed.qcow2
map orphan.qcow2
map empty
map odd.raw
map missing
map --output=json r.raw
map --output=json q.qcow2
map --output=json top.qcow2
map --output=json chain.qcow2
map --output=json packed.qcow2
map --output=json old.qcow2
map --output=json empty
map --output=json odd.raw
map --output=json snap.qcow2
map --output=xml r.raw
map -f raw q.qcow2
map -f nope q.qcow2
map -s 64k q.qcow2
map -s 100 -l 70000 q.qcow2
map -s 100 -l 70000 --output=json q.qcow2
map --start-offset=512k --max-length=4k --output=json q.qcow2
map -l 0 --output=json q.qcow2
map -l 0 q.qcow2
map -s 2M --output=json q.qcow2
map -s 2M q.qcow2
map -s x q.qcow2
map -s -1 q.qcow2
map -l x q.qcow2
map -l 16E q.qcow2
map -s 0x10k q.qcow2
map q.qcow2 r.raw
map -U --output=json q.qcow2
map --image-opts driver=qcow2,file.filename=q.qcow2
map --image-opts --output=json driver=raw,offset=64k,size=128k,file.filename=r.raw
map --output=json null-co://
map --output=json 'json:{"driver":"null-co","size":1048576,"read-zeroes":true}'
`,
  check: String.raw`
check q.qcow2
check old.qcow2
check top.qcow2
check packed.qcow2
check snap.qcow2
check leak.qcow2
check corrupt.qcow2
check dirty.qcow2
check orphan.qcow2
check r.raw
check missing
check -f qcow2 r.raw
check -f raw q.qcow2
check q.qcow2 r.raw
check -q q.qcow2
check -q leak.qcow2
check -q r.raw
check --output=json q.qcow2
check --output=json leak.qcow2
check --output=json corrupt.qcow2
check --output=json r.raw
check --output=xml q.qcow2
check --output=json -q q.qcow2
check -r foo q.qcow2
check -T nope q.qcow2
check -T none q.qcow2
check -U q.qcow2
check --image-opts driver=qcow2,file.filename=q.qcow2
check -f qcow2 --image-opts driver=qcow2,file.filename=q.qcow2
check 'json:{"driver":"qcow2","file.filename":"q.qcow2"}'
check --output=json 'json:{"driver":"qcow2","file.filename":"q.qcow2"}'
`,
  compare: String.raw`
compare r.raw q.qcow2
compare r.raw other.raw
compare r.raw long.raw
compare long.raw r.raw
compare -s r.raw long.raw
compare -s r.raw q.qcow2
compare -s r.raw r.raw
compare q.qcow2 q.qcow2
compare top.qcow2 r.raw
compare top.qcow2 chain.qcow2
compare packed.qcow2 r.raw
compare empty empty
compare empty r.raw
compare odd.raw r.raw
compare odd.raw odd.raw
compare missing r.raw
compare r.raw missing
compare r.raw
compare r.raw r.raw r.raw
compare -q r.raw q.qcow2
compare -q r.raw other.raw
compare -q r.raw long.raw
compare -f raw -F qcow2 r.raw q.qcow2
compare -f qcow2 r.raw q.qcow2
compare -F raw r.raw q.qcow2
compare -f nope r.raw q.qcow2
compare -T nope r.raw q.qcow2
compare -T none r.raw q.qcow2
compare -U r.raw q.qcow2
compare -p r.raw r.raw
compare -p -q r.raw r.raw
compare -p empty empty
compare -p r.raw missing
compare -p -T nope r.raw q.qcow2
compare -p -s r.raw long.raw
compare --image-opts driver=raw,file.filename=r.raw driver=qcow2,file.filename=q.qcow2
compare --image-opts -f raw driver=raw,file.filename=r.raw r.raw
compare --object nosuch,id=a r.raw r.raw
compare --object secret,help r.raw r.raw
`,
  resize: String.raw`
resize r.raw 2M
resize r.raw 1M
resize q.qcow2 2M
resize q.qcow2 +1M
resize r.raw +1M
resize r.raw -512k
resize r.raw 512k
resize --shrink r.raw 512k
resize --shrink r.raw -512k
resize --shrink q.qcow2 512k
resize q.qcow2 512k
resize r.raw -1M
resize --shrink r.raw -1M
resize --shrink r.raw -2M
resize r.raw 0
resize r.raw x
resize r.raw +x
resize r.raw ''
resize r.raw +
resize r.raw -
resize r.raw 1.5
resize r.raw 1.5M
resize r.raw 16E
resize r.raw 8E
resize r.raw ++1M
resize r.raw 0x100k
resize r.raw 1500001
resize r.raw
resize
resize 1M
resize r.raw q.qcow2 2M
resize missing 2M
resize missing x
resize -q r.raw 2M
resize -f raw r.raw 2M
resize -f qcow2 r.raw 2M
resize -f raw q.qcow2 2M
resize --preallocation=off r.raw 2M
resize --preallocation=full r.raw 2M
resize --preallocation=falloc r.raw 2M
resize --preallocation=metadata r.raw 2M
resize --preallocation=foo r.raw 2M
resize --preallocation=full r.raw 1M
resize --preallocation=full --shrink r.raw 512k
resize --preallocation=metadata q.qcow2 2M
resize --image-opts driver=raw,file.filename=r.raw 2M
resize --image-opts driver=raw,file.filename=r.raw,size=512k 2M
resize 2M r.raw
resize r.raw 2M -q
resize snap.qcow2 2M
resize top.qcow2 2M
`,
  measure: String.raw`
measure --size 1M
measure --size 1M -O qcow2
measure --size 1G -O qcow2
measure --size 0 -O qcow2
measure --size 1M --output=json
measure --size 1M -O qcow2 --output=json
measure --size 1M --output=xml
measure --size x
measure --size -1
measure --size 16E
measure --size 0x10k
measure --size 1M r.raw
measure r.raw
measure q.qcow2
measure -O qcow2 r.raw
measure -O qcow2 q.qcow2
measure -O raw q.qcow2
measure -O qcow2 top.qcow2
measure -O qcow2 --output=json chain.qcow2
measure -O qcow2 empty
measure -O nope r.raw
measure -O null-co r.raw
measure -O file r.raw
measure -O qcow2 -o cluster_size=4k r.raw
measure -O qcow2 -o cluster_size=4k --size 1G
measure -O qcow2 -o refcount_bits=1 --size 1G
measure -O qcow2 -o preallocation=full r.raw
measure -O qcow2 -o bogus=1 r.raw
measure -O qcow2 -o cluster_size=3 r.raw
measure -O qcow2 -o cluster_size=x r.raw
measure -O qcow2 -o '' r.raw
measure r.raw q.qcow2
measure -f raw
measure -l x
measure --image-opts
measure -f qcow2 q.qcow2
measure -f qcow2 r.raw
measure missing
measure -l first snap.qcow2 r.raw
measure -l nosuch snap.qcow2
measure -l x r.raw
measure --image-opts driver=qcow2,file.filename=q.qcow2
measure --object nosuch,id=a r.raw
measure --s 5
`,
  convert: String.raw`
convert r.raw new
convert r.raw
convert -O raw r.raw new
convert -O qcow2 r.raw new
convert -f raw -O qcow2 r.raw new
convert -f qcow2 -O raw q.qcow2 new
convert -f qcow2 r.raw new
convert -f nope r.raw new
convert -O nope r.raw new
convert -O null-co r.raw new
convert missing new
convert r.raw missing/new
convert r.raw folder
convert r.raw nosuch:new
convert r.raw other.raw long.raw
convert -O qcow2 r.raw other.raw new
convert r.raw missing new
convert -c -O qcow2 r.raw new
convert -c r.raw new
convert -c -O qcow2 -o preallocation=full r.raw new
convert -c -C -O qcow2 r.raw new
convert -C -S 4k r.raw new
convert -C --salvage r.raw new
convert -C r.raw new
convert --salvage r.raw new
convert -p r.raw new
convert -p -q r.raw new
convert -q r.raw new
convert -p missing new
convert -p empty new
convert -p -O nope r.raw new
convert -S 0 -O qcow2 r.raw new
convert -S 64k -O qcow2 r.raw new
convert -S 5 r.raw new
convert -S x r.raw new
convert -S 17M r.raw new
convert -S -1 r.raw new
convert -m 1 r.raw new
convert -m 16 r.raw new
convert -m 0 r.raw new
convert -m 17 r.raw new
convert -m x r.raw new
convert -m 0x10 r.raw new
convert -m -1 r.raw new
convert -W -m 4 r.raw new
convert -r x r.raw new
convert -r 100M r.raw new
convert -t nope r.raw new
convert -T nope r.raw new
convert -t none r.raw new
convert -t writethrough -T none r.raw new
convert -n r.raw new
convert -n r.raw other.raw
convert -n r.raw long.raw
convert -n long.raw r.raw
convert -n -O qcow2 r.raw q.qcow2
convert -n -O qcow2 r.raw other.raw
convert -n -o size=1M r.raw other.raw
convert -n --target-is-zero r.raw other.raw
convert --target-is-zero r.raw new
convert --target-image-opts r.raw driver=raw,file.filename=new
convert -n --target-image-opts r.raw driver=raw,file.filename=other.raw
convert -n --target-image-opts r.raw driver=raw,file.filename=new
convert -n --target-image-opts -O raw r.raw driver=raw,file.filename=other.raw
convert -n --target-image-opts -o help r.raw driver=raw,file.filename=other.raw
convert --target-image-opts -n -o help r.raw x
convert --skip-broken-bitmaps r.raw new
convert --bitmaps r.raw new
convert --bitmaps -O qcow2 r.raw new
convert --bitmaps missing new
convert -o help r.raw new
convert -o help -O qcow2
convert -O qcow2 -o help r.raw new
convert -O qcow2 -o cluster_size=4k r.raw new
convert -O qcow2 -o cluster_size=3 r.raw new
convert -O qcow2 -o bogus=1 r.raw new
convert -O qcow2 -o '' r.raw new
convert -O qcow2 -o , r.raw new
convert -O qcow2 -o size=5M r.raw new
convert -O qcow2 -o compat=0.10 -o cluster_size=4k r.raw new
convert -O qcow2 -o preallocation=metadata r.raw new
convert -O qcow2 -o compression_type=foo r.raw new
convert -O qcow2 -B r.raw -F raw top.qcow2 new
convert -O qcow2 -B r.raw top.qcow2 new
convert -O qcow2 -o backing_file=r.raw top.qcow2 new
convert -O qcow2 -o backing_file=r.raw,backing_fmt=raw top.qcow2 new
convert -O qcow2 -B missing -F raw top.qcow2 new
convert -O qcow2 -B r.raw -F raw r.raw other.raw new
convert -O qcow2 -F raw r.raw new
convert -B r.raw -F raw top.qcow2 new
convert -n -B r.raw --target-is-zero -O qcow2 top.qcow2 q.qcow2
convert -l nosuch snap.qcow2 new
convert -l snapshot.name=nosuch snap.qcow2 new
convert -l snapshot.bogus=x snap.qcow2 new
convert -l x r.raw new
convert -l x r.raw other.raw new
convert -U r.raw new
convert --image-opts driver=qcow2,file.filename=q.qcow2 new
convert --image-opts -f raw driver=qcow2,file.filename=q.qcow2 new
convert --image-opts -U driver=qcow2,file.filename=q.qcow2,force-share=off new
convert orphan.qcow2 new
convert chain.qcow2 new
convert packed.qcow2 new
convert odd.raw new
convert empty new
convert -O qcow2 empty new
convert text new
convert r.raw r.raw
convert -O qcow2 q.qcow2 q.qcow2
`,
  dd: String.raw`
dd if=r.raw of=new
dd if=q.qcow2 of=new
dd -O qcow2 if=r.raw of=new
dd -f raw -O raw if=r.raw of=new
dd -f qcow2 if=r.raw of=new
dd -f nope if=r.raw of=new
dd -O nope if=r.raw of=new
dd -O null-co if=r.raw of=new
dd if=r.raw
dd of=new
dd r.raw new
dd bogus=1 if=r.raw of=new
dd if=missing of=new
dd if=r.raw of=missing/new
dd if=r.raw of=nosuch:new
dd if=r.raw of=folder
dd bs=4k if=r.raw of=new
dd bs=0 if=r.raw of=new
dd bs=x if=r.raw of=new
dd bs=2G if=r.raw of=new
dd bs=4k count=2 if=r.raw of=new
dd count=x if=r.raw of=new
dd count=0 if=r.raw of=new
dd count=99999999999 if=r.raw of=new
dd skip=10 if=r.raw of=new
dd skip=99999 if=r.raw of=new
dd skip=x if=r.raw of=new
dd bs=4k skip=2 count=4 if=r.raw of=new
dd bs=4k skip=5 count=4 if=r.raw of=new
dd bs=700 if=odd.raw of=new
dd -U if=q.qcow2 of=new
dd --image-opts if=driver=qcow2,file.filename=q.qcow2 of=new
dd if=r.raw of=new extra
dd if=r.raw if=q.qcow2 of=new
dd if=empty of=new
`,
  bench: String.raw`
bench -c 10 r.raw
bench -c 10 -f raw r.raw
bench -c 10 q.qcow2
bench -c 10 -w q.qcow2
bench -c 10 -d 2 -s 8k -S 16k -o 64k r.raw
bench -c 4 -d 2 -w --flush-interval=2 q.qcow2
bench -c 4 -d 2 -w --flush-interval=2 --no-drain q.qcow2
bench -c 4 -d 2 -w --pattern=255 q.qcow2
bench --flush-interval=100 r.raw
bench -w --flush-interval=2 r.raw
bench -c x r.raw
bench -c -1 r.raw
bench -c 99999999999 r.raw
bench -d x r.raw
bench -o x r.raw
bench -s x r.raw
bench -s 2G r.raw
bench -S x r.raw
bench -t nope r.raw
bench -i nope r.raw
bench --pattern=256 -w r.raw
bench --pattern=x -w r.raw
bench --flush-interval=x -w r.raw
bench missing
bench r.raw q.qcow2
bench -f qcow2 r.raw
bench -c 1 -q r.raw
bench -c 1 -U r.raw
bench -c 1 --image-opts driver=qcow2,file.filename=q.qcow2
bench -c 0 r.raw
bench -c 1 -t none r.raw
bench -c 1 -i threads r.raw
bench -c 1 empty
`,
}

/** Splits a command line into words as a shell does. */
export function wordsOf(line: string): string[] {
  const words: string[] = []
  for (const [, text = ''] of line.matchAll(/\s*((?:'[^']*'|"[^"]*"|[^\s'"])+)/g)) {
    words.push(
      text.replace(/'([^']*)'|"([^"]*)"/g, (_, single?: string, double?: string) => single ?? double ?? ''),
    )
  }
  return words
}
