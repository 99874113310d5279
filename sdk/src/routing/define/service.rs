//! `define_service_routing!`.

/// States the routing rule of a service: makes a type of this name that implements
/// [`ServiceRouting`](crate::routing::ServiceRouting).
///
/// ```
/// use std::time::Duration;
///
/// use sidelane::define_service_routing;
/// use sidelane::routing::{
///     Balancing, Breaker, General, Internal, MethodRule, Retry, RouteTable, Rule, ServiceRouting,
///     Split, SplitPart,
/// };
///
/// define_service_routing!(
///     /// Orders, by the node that keeps them.
///     pub Orders,
///     service = "shop.v1.Orders",
///     category = Worker,
///     connection = Internal,
///     swimlane = General,
///     secure = true,
///     persistent = true,
///     load_balancing = ConsistentHash,
///     timeout = Duration::from_secs(2),
///     max_timeout = Duration::from_secs(10),
///     retry = Retry { attempts: 4, ..Retry::DEFAULT },
///     breaker = Breaker { consecutive_failures: 10, ..Breaker::DEFAULT },
///     balancing = Balancing { slow_start: Some(Duration::from_secs(10)), ..Balancing::NONE },
///     split = Split::by_version(const { &[SplitPart::of("v1", 90), SplitPart::of("v2", 10)] }),
///     methods = [
///         MethodRule::unary("GetOrder").idempotent(),
///         MethodRule::unary("PlaceOrder"),
///         MethodRule::streaming("WatchOrders", false, true),
///     ],
/// );
///
/// static RULES: &[Rule] = &[Orders::RULE];
/// pub static ROUTES: RouteTable = RouteTable::new(RULES);
///
/// assert_eq!(Orders::NAME, "shop.v1.Orders");
/// let rule = ROUTES.rules().next().unwrap();
/// assert_eq!(rule.timeout, Some(Duration::from_secs(2)));
/// assert_eq!(rule.balancing.slow_start, Some(Duration::from_secs(10)));
/// assert_eq!(rule.split.as_ref().unwrap().parts[1].percent, 10);
/// ```
///
/// | field | what it is |
/// | --- | --- |
/// | `category` | a [`Category`](crate::routing::Category), such as `Worker` |
/// | `connection` | the class, as a type |
/// | `swimlane` | the lane, as a type; it must go with the class |
/// | `secure` | `true`: refused rather than sent in the clear |
/// | `persistent` | `true`: the channel is kept open while idle |
/// | `load_balancing` | a [`LoadBalancingStrategy`](crate::routing::LoadBalancingStrategy), such as `Random` |
/// | `load_balancing_custom` | or the name of a strategy of one's own |
/// | `service` | the gRPC name, where it is not the type's |
/// | `timeout` | time limit of unary calls that bring none: 30 s if persistent, otherwise 5 s |
/// | `max_timeout` | the ceiling of all unary calls: none |
/// | `retry` | how idempotent methods are tried again: not at all |
/// | `methods` | the methods that are known: none |
/// | `breaker` | when an endpoint that fails is left alone: [`Breaker::DEFAULT`](crate::routing::Breaker::DEFAULT) |
/// | `outlier` | when one that fails more than the others is: [`Outlier::DEFAULT`](crate::routing::Outlier::DEFAULT) |
/// | `admission` | what is admitted of its calls, an [`Admission`](crate::routing::Admission): all |
/// | `authorization` | who may call it, an [`Authorization`](crate::routing::Authorization): everybody |
/// | `balancing` | what decides beside the strategy, a [`Balancing`](crate::routing::Balancing): nothing |
/// | `split` | how calls are split between versions, a [`Split`](crate::routing::Split): not at all |
///
/// Whatever the options of a `.proto` can say of a service, a field says too; what they say of a
/// method is said by its [`MethodRule`](crate::routing::MethodRule).
///
/// The fields come in any order. The last eleven may be left out, and one of the two before them
/// must be.
///
/// ```compile_fail
/// use sidelane::define_service_routing;
/// use sidelane::routing::{General, Internal};
///
/// // error: define_service_routing!: `persistent` is missing
/// define_service_routing!(
///     Orders,
///     category = Worker,
///     connection = Internal,
///     swimlane = General,
///     secure = true,
///     load_balancing = Random,
/// );
/// ```
#[macro_export]
macro_rules! define_service_routing {
    ($(#[$meta:meta])* $vis:vis $name:ident, $($fields:tt)*) => {
        $crate::define_service_routing! {
            @read [[$(#[$meta])* $vis $name] []] [] [] [] [] [] [] [] [] [] [] [] []; $($fields)*,
        }
    };

    // One field after the other goes into its slot; the slots stand in the order of the arms.
    (@read $n:tt [$($x:tt)*] $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        category = $v:ident, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n [$($x)* ($crate::routing::Category::$v)] $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt [$($x:tt)*] $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        category = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n [$($x)* ($v)] $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt [$($x:tt)*] $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        connection = $v:ty, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a [$($x)* ($v)] $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt [$($x:tt)*] $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        swimlane = $v:ty, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b [$($x)* ($v)] $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt [$($x:tt)*] $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        secure = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c [$($x)* ($v)] $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt [$($x:tt)*] $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        persistent = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d [$($x)* ($v)] $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt [$($x:tt)*] $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        load_balancing = $v:ident, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e [$($x)* ($crate::routing::LoadBalancingStrategy::$v)]
        $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt [$($x:tt)*] $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        load_balancing = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e [$($x)* ($v)] $g $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt [$($x:tt)*] $h:tt $i:tt $j:tt $k:tt $l:tt;
        load_balancing_custom = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f [$($x)* ($v)] $h $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt [$($x:tt)*] $i:tt $j:tt $k:tt $l:tt;
        service = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f $g [$($x)* ($v)] $i $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt [$($x:tt)*] $j:tt $k:tt $l:tt;
        timeout = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f $g $h [$($x)* ($v)] $j $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt [$($x:tt)*] $k:tt $l:tt;
        max_timeout = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f $g $h $i [$($x)* ($v)] $k $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt [$($x:tt)*] $l:tt;
        retry = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f $g $h $i $j [$($x)* ($v)] $l; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt [$($x:tt)*];
        methods = [$($v:expr),* $(,)?], $($rest:tt)*) => { $crate::define_service_routing! {
        @read $n $a $b $c $d $e $f $g $h $i $j $k [$($x)* ([$($v),*])]; $($rest)*
    } };

    // What a policy says stands beside the name, as the constant that it sets.
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        breaker = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (BREAKER: $crate::routing::__private::Option<$crate::routing::Breaker> =
            $crate::routing::__private::Option::Some($v))]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        outlier = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (OUTLIER: $crate::routing::__private::Option<$crate::routing::Outlier> =
            $crate::routing::__private::Option::Some($v))]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        admission = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (ADMISSION: $crate::routing::Admission = $v)]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        authorization = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (AUTHORIZATION:
            $crate::routing::__private::Option<$crate::routing::Authorization> =
            $crate::routing::__private::Option::Some($v))]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        balancing = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (BALANCING: $crate::routing::Balancing = $v)]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };
    (@read [$n:tt [$($x:tt)*]] $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        split = $v:expr, $($rest:tt)*) => { $crate::define_service_routing! {
        @read [$n [$($x)* (SPLIT: $crate::routing::__private::Option<$crate::routing::Split> =
            $crate::routing::__private::Option::Some($v))]]
        $a $b $c $d $e $f $g $h $i $j $k $l; $($rest)*
    } };

    // All is read: the last comma may have been there already.
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt; $(,)?) => {
        $crate::define_service_routing! { @whole $n
            category $a, connection $b, swimlane $c, secure $d, persistent $e, load_balancing $f,
            load_balancing_custom $g, service $h, timeout $i, max_timeout $j, retry $k, methods $l,
        }
    };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        methods = $($rest:tt)*) => { ::core::compile_error!(
        "define_service_routing!: `methods` is a list in brackets, such as \
         `methods = [MethodRule::unary(\"Get\")]`"
    ); };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        $field:ident = $($rest:tt)*) => { ::core::compile_error!(::core::concat!(
        "define_service_routing!: `", ::core::stringify!($field), "` is no field; fields are \
         category, connection, swimlane, secure, persistent, load_balancing, \
         load_balancing_custom, service, timeout, max_timeout, retry, methods, admission, \
         breaker, outlier, balancing, split, authorization"
    )); };
    (@read $n:tt $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt $h:tt $i:tt $j:tt $k:tt $l:tt;
        $first:tt $($rest:tt)*) => { ::core::compile_error!(::core::concat!(
        "define_service_routing!: a field is written `name = value`, and a comma follows; it goes wrong \
         at `", ::core::stringify!($first), "`"
    )); };

    // What is missing, in the order of the slots, then what is there twice.
    (@whole $n:tt category [], $($rest:tt)*) => {
        $crate::define_service_routing!(@missing category);
    };
    (@whole $n:tt category $a:tt, connection [], $($rest:tt)*) => {
        $crate::define_service_routing!(@missing connection);
    };
    (@whole $n:tt category $a:tt, connection $b:tt, swimlane [], $($rest:tt)*) => {
        $crate::define_service_routing!(@missing swimlane);
    };
    (@whole $n:tt category $a:tt, connection $b:tt, swimlane $c:tt, secure [], $($rest:tt)*) => {
        $crate::define_service_routing!(@missing secure);
    };
    (@whole $n:tt category $a:tt, connection $b:tt, swimlane $c:tt, secure $d:tt, persistent [],
        $($rest:tt)*) => {
        $crate::define_service_routing!(@missing persistent);
    };
    (@whole $n:tt category $a:tt, connection $b:tt, swimlane $c:tt, secure $d:tt, persistent $e:tt,
        load_balancing [], load_balancing_custom [], $($rest:tt)*) => {
        ::core::compile_error!(
            "define_service_routing!: `load_balancing` is missing; say how an endpoint is picked, \
             such as `load_balancing = PeakEwma`, or name a strategy of your own with \
             `load_balancing_custom`"
        );
    };
    (@whole $n:tt $($field:ident [$($x:tt)?],)*) => {
        $crate::define_service_routing! { @make $n $($field [$($x)?],)* }
    };
    (@whole $n:tt $($field:ident $x:tt,)*) => {
        $($crate::define_service_routing! { @once $field $x })*
    };
    (@missing $field:ident) => { ::core::compile_error!(::core::concat!(
        "define_service_routing!: `", ::core::stringify!($field), "` is missing; every service \
         says category, connection, swimlane, secure, persistent, and load_balancing or \
         load_balancing_custom"
    )); };
    (@once $field:ident [$($x:tt)?]) => {};
    (@once $field:ident $x:tt) => { ::core::compile_error!(::core::concat!(
        "define_service_routing!: `", ::core::stringify!($field), "` is given more than once"
    )); };

    (@make $n:tt category $a:tt, connection $b:tt, swimlane $c:tt, secure $d:tt, persistent $e:tt,
        load_balancing [$f:tt], load_balancing_custom [$g:tt], $($rest:tt)*) => {
        ::core::compile_error!(
            "define_service_routing!: `load_balancing` and `load_balancing_custom` are both given; \
             one of them says how an endpoint is picked"
        );
    };
    (@make [[$(#[$meta:meta])* $vis:vis $name:ident] [$(($policy:ident: $kind:ty = $says:expr))*]]
        category [($category:expr)],
        connection [($connection:ty)],
        swimlane [($lane:ty)],
        secure [($secure:expr)],
        persistent [($persistent:expr)],
        load_balancing [$(($balancing:expr))?],
        load_balancing_custom [$(($custom:expr))?],
        service $service:tt,
        timeout [$(($timeout:expr))?],
        max_timeout [$(($max_timeout:expr))?],
        retry [$(($retry:expr))?],
        methods [$(($methods:expr))?],
    ) => {
        $(#[$meta])*
        #[doc = "\n\nA service, by its routing rule."]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        $vis struct $name;

        impl $crate::routing::ServiceRouting for $name {
            const NAME: &'static str = $crate::define_service_routing!(@name $name $service);
            const SERVICE_CATEGORY: $crate::routing::Category = $category;
            type Connection = $connection;
            type Lane = $lane;
            const REQUIRES_SECURE_TRANSPORT: bool = $secure;
            const REQUIRES_PERSISTENT_CONNECTION: bool = $persistent;
            $(const LOAD_BALANCING_STRATEGY:
                $crate::routing::__private::Option<$crate::routing::LoadBalancingStrategy> =
                $crate::routing::__private::Option::Some($balancing);)?
            $(const LOAD_BALANCING_CUSTOM: $crate::routing::__private::Option<&'static str> =
                $crate::routing::__private::Option::Some($custom);)?
            $(const DEFAULT_TIMEOUT:
                $crate::routing::__private::Option<$crate::routing::__private::Duration> =
                $crate::routing::__private::Option::Some($timeout);)?
            $(const MAX_TIMEOUT:
                $crate::routing::__private::Option<$crate::routing::__private::Duration> =
                $crate::routing::__private::Option::Some($max_timeout);)?
            $(const RETRY: $crate::routing::__private::Option<$crate::routing::Retry> =
                $crate::routing::__private::Option::Some($retry);)?
            $(const METHODS: &'static [$crate::routing::MethodRule] = &$methods;)?
            $(const $policy: $kind = $says;)*
            const ORIGIN: &'static str = ::core::concat!(::core::file!(), ":", ::core::line!());
        }

        // A rule whose parts do not go together is an error here, used or not.
        const _: $crate::routing::Rule = <$name as $crate::routing::ServiceRouting>::RULE;
    };
    (@name $name:ident []) => { ::core::stringify!($name) };
    (@name $name:ident [($service:expr)]) => { $service };

    ($($other:tt)*) => { ::core::compile_error!(
        "define_service_routing! begins with the name of the type, then its fields: \
         `define_service_routing!(Orders, category = Worker, …)`"
    ); };
}
