use orlop_plugin::*;
use orlop_plugin::controller::ControllerWorld;
use std::sync::Arc;
fn main() {
    let rt = Runtime::new(&RuntimeOptions { cache: None }).unwrap();
    for name in std::env::args().skip(1) {
        let bytes = std::fs::read(&name).unwrap();
        let t = std::time::Instant::now();
        let c = rt.compile(&bytes).unwrap();
        let ct = t.elapsed();
        let mut o = PluginOptions::from_manifest(c.manifest());
        if name.contains("root_ca") { o.config = br#"{"rootCA":"-----BEGIN CERTIFICATE-----"}"#.to_vec(); }
        let p: Arc<Plugin<ControllerWorld>> = Arc::new(rt.link(&c, o).unwrap());
        let t = std::time::Instant::now();
        let mut s = Slot::new(p);
        s.instance().unwrap();
        let it = t.elapsed();
        let req = br#"{"now":0,"items":[{"key":{"namespace":"d","name":"web"},"object":{"metadata":{"name":"web","namespace":"d","uid":"u","resourceVersion":"1","generation":1},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[]}}}},"inputs":{},"attempt":0,"memo":null}]}"#;
        let t = std::time::Instant::now();
        let a = s.reconcile(req).unwrap();
        let rt1 = t.elapsed();
        let t = std::time::Instant::now();
        for _ in 0..100 { s.reconcile(req).unwrap(); }
        let avg = t.elapsed() / 100;
        let (inst, _) = s.instance().unwrap();
        println!("{} {} bytes compile {:?} init {:?} first {:?} avg {:?} mem {}\n   {}", c.manifest().name, bytes.len(), ct, it, rt1, avg, inst.memory_bytes(), String::from_utf8_lossy(&a).chars().take(200).collect::<String>());
    }
}
